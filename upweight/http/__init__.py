"""How the client talks to the service: flows of requests, blocking or awaited; long polls; streams of events."""
