"""README.md says what is true of the commands and of the programs."""

import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).absolute().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def fenced_blocks():
    return re.findall(r"^```[^\n]*\n(.*?)^```$", README, re.M | re.S)


def flag_table(program):
    """{flag: default} of the table under the program's name."""
    text = README.split("`%s`, once" % program, 1)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.M).group()
    return dict(re.findall(r"^\| `(--[a-z-]+)` \| (?:`(.*?)`|none) \|", table,
                           re.M))


def help_flags(program):
    """{flag: default} of what --help prints."""
    text = subprocess.run([str(ROOT / program), "--help"], check=True,
                          capture_output=True, text=True).stdout
    flags = re.findall(
        r"^ +(?:-\w,)?(--[a-z-]+)"  # Name, type, range, default:
        r"(?: [A-Z]+(?::\{.*?\}|:INT in \[.*?\])?(?:=(\S+))?)?", text, re.M)
    return {flag: default.strip('"') for flag, default in flags
            if flag != "--help"}


class ReadmeTest(unittest.TestCase):

    def test_its_first_two_blocks_are_one_command_each(self):
        self.assertEqual(fenced_blocks()[:2],
                         ["bash deploy/main_job.sh\n",
                          "bash deploy/run_tests.sh\n"])

    def test_the_flags_of_coordinatord(self):
        self.assertEqual(flag_table("coordinatord"),
                         help_flags("coordinator/coordinatord"))

    def test_the_flags_of_workerd(self):
        self.assertEqual(flag_table("workerd"), help_flags("worker/workerd"))


if __name__ == "__main__":
    unittest.main()
