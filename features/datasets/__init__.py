"""Images and labels in, by whatever way they come: folders, archives, lists."""
