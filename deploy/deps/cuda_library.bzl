"""cc_library for CUDA: the sources go through nvcc, for every GPU supported.

The result is an ordinary C++ library: g++ compiles and links what uses it, so a
header of it must not need nvcc. Where there is no CUDA, nothing is built.
"""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")
load("@cuda//:defs.bzl", "CUDA_HOME", "REQUIRES_CUDA")

# Machine code for each generation, and PTX for those that are to come.
_TARGETS = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_100,code=[sm_100,compute_100]",
]
_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC,-Wall,-Wextra"]

def _compile(ctx, source, compilation):
    object = ctx.actions.declare_file(source.basename + ".o")
    ctx.actions.run(
        executable = CUDA_HOME + "/bin/nvcc",
        mnemonic = "CudaCompile",
        inputs = depset(
            ctx.files.srcs + ctx.files.hdrs,
            transitive = [compilation.headers],
        ),
        outputs = [object],
        arguments = _TARGETS + _FLAGS +
                    ["-I.", "-c", source.path, "-o", object.path],
        env = {"PATH": "/usr/bin:/bin"},
    )
    return object

def _cuda_library_impl(ctx):
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(ctx = ctx, cc_toolchain = toolchain)
    deps = [dep[CcInfo] for dep in ctx.attr.deps]
    own = CcInfo(compilation_context = cc_common.create_compilation_context(
        headers = depset(ctx.files.hdrs),
    ))
    merged = cc_common.merge_cc_infos(direct_cc_infos = [own], cc_infos = deps)
    compilation = merged.compilation_context
    objects = [
        _compile(ctx, source, compilation)
        for source in ctx.files.srcs
        if source.extension == "cu"
    ]
    outputs = cc_common.create_compilation_outputs(
        objects = depset(objects),
        pic_objects = depset(objects),
    )
    linking, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        feature_configuration = features,
        cc_toolchain = toolchain,
        compilation_outputs = outputs,
        linking_contexts = [dep.linking_context for dep in deps],
        name = ctx.label.name,
        disallow_dynamic_library = True,
    )
    return [
        DefaultInfo(files = depset(objects)),
        CcInfo(compilation_context = compilation, linking_context = linking),
    ]

_cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu", ".cuh"]),
        "hdrs": attr.label_list(allow_files = [".h"]),
        "deps": attr.label_list(providers = [CcInfo]),
        "_cc_toolchain": attr.label(
            default = "@bazel_tools//tools/cpp:current_cc_toolchain",
        ),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)

def cuda_library(name, **kwargs):
    _cuda_library(
        name = name,
        target_compatible_with = REQUIRES_CUDA,
        **kwargs
    )
