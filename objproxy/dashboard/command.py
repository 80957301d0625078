"""The command ``objproxy``: so far it has one word, ``dashboard``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from objproxy.dashboard import frames
from objproxy.dashboard.control import check_installed, check_ports, make_url


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what goes wrong is told in one line, with exit code 1."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["serve"]:
        _serve_for_owner(*arguments[1:])
        return
    given = _parser().parse_args(arguments)
    try:
        if given.url is not None:
            _say(make_url(given.url))
        else:
            _serve_by_hand(given.port)
    except (ImportError, OSError) as exc:
        sys.exit(f"objproxy dashboard: {exc}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="objproxy", description="Pools of live objects, one in each worker process.")
    words = parser.add_subparsers(required=True, metavar="command")
    dashboard = words.add_parser(
        "dashboard",
        help="show the pools of running programs in a browser",
        description="Show the pools of running programs in a browser. "
        "Programs connect with objproxy.connect_to_dashboard(port). It can be reached by this user alone, from this machine, "
        "and ends with Ctrl-C.",
    )
    dashboard.add_argument(
        "--port",
        type=_parse_ports,
        default="8080-8099",
        metavar="PORTS",
        help="a port, or a range of which the first that is free is taken (default: %(default)s)",
    )
    dashboard.add_argument(
        "--url", type=_parse_port, metavar="PORT", help="print another address, which works once, of a dashboard that runs"
    )
    return parser


def _parse_port(text: str) -> int:
    ports = _parse_ports(text)
    if len(ports) != 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one port")
    return ports[0]


def _parse_ports(text: str) -> list[int]:
    first, _, last = text.partition("-")
    try:
        return check_ports(range(int(first), int(last or first) + 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, or a range such as 8080-8099") from None


def _serve_by_hand(ports: list[int]) -> None:
    check_installed()
    from objproxy.dashboard.server import serve  # the web framework

    def on_ready(port: int, url: str) -> None:
        _say(
            f"The dashboard is on port {port}. Open\n\n    {url}\n\n"
            f"in a browser (it works once; 'objproxy dashboard --url {port}' gives another).\n"
            f"Programs of yours show their pools there after objproxy.connect_to_dashboard({port}). Ctrl-C ends it."
        )

    serve(ports, None, on_ready)


def _serve_for_owner(ports: str, owner: str) -> None:
    """Serve for a program that has started this process: it is told in one line of JSON how that went."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that starts it may block the signal that ends it
    from objproxy.dashboard.server import serve

    def on_ready(port: int, url: str) -> None:
        _say(json.dumps({"port": port, "url": url}))
        frames.drop_streams()

    try:
        serve(json.loads(ports), int(owner), on_ready)
    except OSError as exc:
        _say(json.dumps({"error": str(exc)}))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
