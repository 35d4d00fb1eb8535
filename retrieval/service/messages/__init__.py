"""What goes over HTTP, as the OpenAPI page shows it: a module for each kind of route."""
