"""What runs elsewhere, in a job folder. Standard library only; it imports nothing of the rest of the program."""
