"""What each video model wants of a prompt: the form of the answer, what the clip decides of it, the line that its tool reads.

A target is a file `conf/target/NAME.yaml`; what no file can say is code here.
"""
