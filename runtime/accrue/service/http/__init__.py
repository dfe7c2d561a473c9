"""The HTTP API of a device (extra `console`): Starlette over `accrue.service.daemon.Device`."""
