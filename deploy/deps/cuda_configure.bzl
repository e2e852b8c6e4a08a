"""Finds CUDA and NCCL: CUDA_HOME, then /usr/local/cuda, then the PyPI wheels.

Without them the repository says so, and //deploy/deps:... of it is not built:
targets of the CUDA device carry `target_compatible_with` of @cuda//:defs.bzl.
"""

_WHEELS = [
    "/usr/local/lib/python3.11/dist-packages/nvidia/cu13",
    "/usr/lib/python3/dist-packages/nvidia/cu13",
]

# The runtime is linked in, and finds the driver when it is first used: what is
# built here starts on a machine that has none. NCCL gives headers only; its
# library is the machine's own (worker/comm/nccl_library.h).
_BUILD = """
load(":defs.bzl", "REQUIRES_CUDA")

package(default_visibility = ["//visibility:public"])

# No platform has it, so what asks for it is passed over. (Debian's package of
# platforms has no such target.)
constraint_setting(name = "never")

constraint_value(
    name = "incompatible",
    constraint_setting = ":never",
)

cc_library(
    name = "runtime",
    hdrs = glob(
        ["home/include/*.h", "home/include/crt/*"],
        exclude = ["home/include/nccl*"],
    ),
    includes = ["home/include"],
    linkopts = ["-L%s/lib64 -l:libcudart_static.a", "-ldl", "-lpthread", "-lrt"],
    target_compatible_with = REQUIRES_CUDA,
)

cc_library(
    name = "nvtx",
    hdrs = glob(["home/include/nvtx3/**"]),
    includes = ["home/include"],
    linkopts = ["-ldl"],
    target_compatible_with = REQUIRES_CUDA,
)

cc_library(
    name = "nccl",
    hdrs = glob(["home/include/nccl*.h"]),
    includes = ["home/include"],
    target_compatible_with = REQUIRES_CUDA,
    deps = [":runtime"],
)
"""

def _find(ctx):
    candidates = [ctx.os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"] + _WHEELS
    for home in candidates:
        if home and ctx.path(home + "/bin/nvcc").exists:
            return home
    return None

def _cuda_configure_impl(ctx):
    home = _find(ctx)
    if home:
        print("CUDA found in %s: the CUDA device is built." % home)
        ctx.symlink(home, "home")
    else:
        print("CUDA not found (CUDA_HOME, /usr/local/cuda): building the host device only.")
    ctx.file("defs.bzl", """CUDA_HOME = %r
HAS_CUDA = bool(CUDA_HOME)

# For targets of the CUDA device: nothing is asked of a machine that has CUDA,
# and `bazel build //...` passes over them on one that has not.
REQUIRES_CUDA = %s
""" % (
        home or "",
        "[]" if home else '["@cuda//:incompatible"]',
    ))
    ctx.file("BUILD.bazel", _BUILD % (home or "/usr/local/cuda"))

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
