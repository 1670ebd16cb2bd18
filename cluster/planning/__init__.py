"""What training would do and cost, before it is done."""
