"""Models of HTTP requests and answers, shared by the service and its client."""
