"""First and second derivatives of a batch's losses, by torch's methods and by analytic ones for known graphs."""
