"""JSON-RPC 2.0 as text: a stream cut into messages, requests read, replies written. No I/O."""
