"""What answers requests to a bundle, whatever server hands them over: it knows no engine.

An archive holds it as a folder beside the entry of the engine that serves it; the wheel has it too.
"""
