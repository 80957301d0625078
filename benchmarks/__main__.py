"""Answer every question and compare with the targets: ``python -m benchmarks [--quick] [--question NAME ...]``."""

from __future__ import annotations

from benchmarks import (
    argument_sizes,
    bar_cost,
    broadcast_memory,
    data_types,
    import_time,
    large_arguments,
    large_broadcast,
    lazy_memory,
    mpire_face,
    mpire_three,
    ompr_queue,
    put_handle,
    round_trip,
    shared_fill,
    short_pools,
    small_faces,
    start_up,
    tiny_items,
    uneven_items,
)
from benchmarks._command import answer, describe_machine, make_parser
from benchmarks._report import format_summary, write_summary

QUESTIONS = {
    "round_trip": round_trip.EXPERIMENTS,
    "tiny_items": tiny_items.EXPERIMENTS,
    "uneven_items": uneven_items.EXPERIMENTS,
    "large_arguments": large_arguments.EXPERIMENTS,
    "large_broadcast": large_broadcast.EXPERIMENTS,
    "put_handle": put_handle.EXPERIMENTS,
    "argument_sizes": argument_sizes.EXPERIMENTS,
    "data_types": data_types.EXPERIMENTS,
    "shared_fill": shared_fill.EXPERIMENTS,
    "broadcast_memory": broadcast_memory.EXPERIMENTS,
    "mpire_face": mpire_face.EXPERIMENTS,
    "mpire_three": mpire_three.EXPERIMENTS,
    "small_faces": small_faces.EXPERIMENTS,
    "ompr_queue": ompr_queue.EXPERIMENTS,
    "bar_cost": bar_cost.EXPERIMENTS,
    "start_up": start_up.EXPERIMENTS,
    "short_pools": short_pools.EXPERIMENTS,
    "lazy_memory": lazy_memory.EXPERIMENTS,
    "import_time": import_time.EXPERIMENTS,
}


def main() -> None:
    """Run the questions asked for, and print one table of all targets."""
    parser = make_parser(__doc__)
    parser.add_argument("--question", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="only these questions")
    options = parser.parse_args()
    print(describe_machine())
    results = [result for name in options.question for result in answer(name, QUESTIONS[name], options)]
    if options.quick:
        print("Quick: sizes this small tell whether everything works, not how fast it is.")
    print(format_summary(results))
    write_summary(QUESTIONS, options.output)


if __name__ == "__main__":
    main()
