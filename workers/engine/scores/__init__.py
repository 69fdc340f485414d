"""What is made of solutions: influence of rows and of their features; predictions; how near θ is to an optimum."""
