"""What commands and the demo share."""
