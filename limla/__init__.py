"""limla: Lossy Impact on Machine Learning Algorithms."""
