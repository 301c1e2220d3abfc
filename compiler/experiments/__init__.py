"""Many runs compared: networks x seeds, from a file to a table."""
