"""What a function's process needs besides its own work: HTTP answers, health, a listening socket, an orderly end.

Shared by the functions and of use to anything long-lived that stands on the SDK. It needs starlette and uvicorn, which
whoever imports it declares; nothing else in the SDK imports it.
"""
