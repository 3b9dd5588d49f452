"""What watches over a training between its steps: one policy to a file."""
