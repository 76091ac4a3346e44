"""The paper's experiments: their data and configurations, the runs of each, and what came of them.

A run lies in ``OUT/[SETTING/]seed-N``. What is compared with it writes ``OUT/baselines/METHOD/seed-N.json``:
an object whose ``given`` and, where the task need not be given, ``found`` have ``mean``, ``tasks`` and
``classes`` as ``measured.Accuracy``; beside them ``network_bytes``, ``memory_bytes``,
``multiply_adds`` and ``seen``.
"""
