"""What the system does now, and what is wrong with it: for `clearline status`, the console, and whoever is on call."""
