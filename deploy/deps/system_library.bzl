"""A repository for a library that the distribution has installed.

Its BUILD file is NAME.BUILD in this folder and only names link flags: headers
come from the compiler's own search path (/usr/include).
"""

def _system_library_impl(ctx):
    ctx.symlink(Label("//deploy/deps:%s.BUILD" % ctx.name), "BUILD.bazel")

system_library = repository_rule(implementation = _system_library_impl, local = True)
