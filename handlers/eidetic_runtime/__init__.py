"""What answers requests to a bundle. It knows no engine, so any server may hand them over.

An archive holds it as a folder beside the entry of the engine that serves it; the wheel has it too.
"""
