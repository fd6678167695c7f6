"""What a camera writes beside picture and sound: boxes of its own, positions, companion files; and the account of what became of each."""
