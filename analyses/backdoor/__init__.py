"""The backdoor finding: is there a string that works as a trigger?"""
