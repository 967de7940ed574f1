from . import Contender

CONTENDERS: list[Contender] = []
