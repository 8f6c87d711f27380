"""What runs inside the sandbox: the template that forks, and the child that is one run. Standard library only."""
