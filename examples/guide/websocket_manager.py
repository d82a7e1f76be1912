"""Old code's `from websocket_manager import WebSocketManager` goes on working with this one file."""

from antiphon import WebSocketManager as WebSocketManager
