"""The watch goes on, whatever it meets."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

from served import until

from serving.watch import Watch


def server(models):
    """As much of a connection as the watch looks at; ``models`` is called at each look."""
    state = SimpleNamespace(models={})
    return SimpleNamespace(management=SimpleNamespace(models=lambda seconds: models()), state=lambda: state)


@contextmanager
def watching(found):
    watch = Watch()
    watch.point_at(found)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def test_a_look_that_fails_in_a_way_that_nobody_thought_of_is_followed_by_others():
    answers = [{}, RuntimeError("the client has been closed"), {"net": 1}]

    def models():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    with watching(server(models)) as watch:
        until(lambda: watch.held == {"net": 1}, 10)
        assert watch.unready() == []


def test_a_server_is_never_looked_at_any_more_once_the_watch_points_elsewhere():
    """Whoever points the watch elsewhere closes the server's clients next."""
    looking, closed, late = [False], [False], []

    def models():
        looking[0] = True
        time.sleep(0.3)
        late.append(closed[0])
        return {}

    with watching(server(models)) as watch:
        looking[0] = False
        until(lambda: looking[0], 10)
        watch.point_at(None)
        closed[0] = True
    assert len(late) == 2
    assert not any(late)
