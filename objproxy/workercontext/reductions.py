"""The reductions of workercontext; they are those of `objproxy.reductions`, which take the parameter names of both."""

from objproxy.reductions import (
    ReductionComposition,
    average_reduction,
    bitwise_and_reduction,
    bitwise_or_reduction,
    dict_merge_reduction,
    flatten_reduction,
    histogram_reduction,
    max_reduction,
    min_reduction,
    product_reduction,
    set_union_reduction,
    string_concatenation_reduction,
    sum_reduction,
)

__all__ = [
    "ReductionComposition",
    "average_reduction",
    "bitwise_and_reduction",
    "bitwise_or_reduction",
    "dict_merge_reduction",
    "flatten_reduction",
    "histogram_reduction",
    "max_reduction",
    "min_reduction",
    "product_reduction",
    "set_union_reduction",
    "string_concatenation_reduction",
    "sum_reduction",
]
