"""Ray: started or joined, work spread over it, and which code runs there."""
