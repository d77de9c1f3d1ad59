"""The front of a cluster: JSON-RPC and HTTP gateways and the dispatch of requests to raters."""
