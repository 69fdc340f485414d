"""What one namespace may take from the others: requests a second, uploads at once, stored bytes."""
