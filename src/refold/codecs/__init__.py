"""temporary"""
from refold.codecs.json import JsonCodec
def codec_named(n): return JsonCodec()
