"""Analytic derivatives: a model's traced graph as a list of nodes, each with the derivatives of its own operator."""
