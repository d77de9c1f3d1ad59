"""The HTTP gateway: bytes into requests, requests into calls and answers, and the pages it serves itself."""
