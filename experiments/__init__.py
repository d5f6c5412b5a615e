"""What reads run folders: tables and figures."""
