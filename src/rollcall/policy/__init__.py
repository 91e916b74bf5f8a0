"""Who may judge commands before they happen: a court over HTTP, a service on the bus, or a function."""
