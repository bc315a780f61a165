"""What a run tells: terminal, TensorBoard, history and the HTML report."""
