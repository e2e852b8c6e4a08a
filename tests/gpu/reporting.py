"""How a script of tests/gpu or tests/peers hands over what it has measured."""

import json
import pathlib


def write_figures(figures, path):
  """{name: {"got", "unit", "reference"}}, to a file and printed."""
  pathlib.Path(path).write_text(
      json.dumps(figures, indent=1) + "\n", encoding="utf-8")
  for name, value in figures.items():
    print(f"{name}: {value['got']} {value['unit']}")
