"""The operator's console: pages that the box renders, and the modules that make three of them live.

`console_routes` gives the routes that `accrue.service.http.app.create_app` takes as `more`.
"""

from accrue.service.console.pages import console_routes

__all__ = ["console_routes"]
