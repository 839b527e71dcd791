"""What the kernel must look like: the wish, the pure plan, its application with undo, and the kernel itself."""
