"""A module of handlers, of which there are none: the server that imports it is mortal."""

from tests.support.mortal_tasks import be_mortal

be_mortal()
