"""Who runs the loop of stage one."""
