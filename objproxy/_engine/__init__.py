"""The engine: rules (plan, state, chunks) that do no I/O, and the driver that turns them with a back end."""
