"""Compiled code and hooks: what torch compiles of a model must not outlive a change of its hooks.

By default torch's compiler leaves hooks out of what it checks before it uses compiled code again, so that hooks added
after a first call would be skipped in silence. Checking them costs microseconds for each module and call.
"""

import torch


def check_hooks_when_compiled() -> None:
    """To be called in a forward pass: where it is being compiled, the code will be used with the same hooks only.

    This holds for whatever else is compiled in this process from then on: torch has one setting for all.

    Example:
        >>> import torch
        >>> from skillneurons.models.compiled import check_hooks_when_compiled
        >>> def twice(x):
        ...     check_hooks_when_compiled()
        ...     return 2 * x
        >>> twice(torch.ones(2))
        tensor([2., 2.])
    """
    if torch.compiler.is_dynamo_compiling():
        from torch._dynamo.comptime import comptime

        comptime(_set)


def _set(_: object) -> None:
    from torch._dynamo import config

    config.skip_nnmodule_hook_guards = False
