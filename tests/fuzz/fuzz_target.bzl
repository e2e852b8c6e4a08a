"""One fuzz target, which is an ordinary test as well."""

def fuzz_target(name, deps, size = "small"):
    """NAME.cc, which defines LLVMFuzzerTestOneInput(), over corpus/NAME/.

    With --config=fuzz the program is libFuzzer's. Otherwise it is a test that
    runs every input of the corpus once.

    Args:
      name: ends in "_fuzz".
      deps: of the source file.
      size: of the test.
    """
    native.cc_test(
        name = name,
        size = size,
        srcs = [name + ".cc"],
        args = ["tests/fuzz/corpus/" + name],
        data = native.glob(["corpus/%s/**" % name]),
        linkopts = select({
            ":with_libfuzzer": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = ["fuzz"],
        deps = deps + select({
            ":with_libfuzzer": [],
            "//conditions:default": [":replay"],
        }),
    )
