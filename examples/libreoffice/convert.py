#!/usr/bin/python3
"""Converts a document with a soffice that listens on a UNO socket.

Both documents travel through the connection, so that soffice needs no access to the
files. One document per run: Python's uno keeps the objects of a connection that has
ended, and cannot use a second connection to the same soffice.
"""

import argparse
import pathlib
import sys

import uno
import unohelper
from com.sun.star.beans import PropertyValue
from com.sun.star.io import XOutputStream
from com.sun.star.uno import Exception as UnoException

# By extension: the filter, its options for reading, and the filter that makes a PDF.
FILTERS = {
    ".odt": ("writer8", "", "writer_pdf_Export"),
    ".docx": ("MS Word 2007 XML", "", "writer_pdf_Export"),
    ".rtf": ("Rich Text Format", "", "writer_pdf_Export"),
    ".html": ("HTML (StarWriter)", "", "writer_pdf_Export"),
    ".ods": ("calc8", "", "calc_pdf_Export"),
    # Comma, double quote, UTF-8, from line 1.
    ".csv": ("Text - txt - csv (StarCalc)", "44,34,76,1", "calc_pdf_Export"),
}


class Output(unohelper.Base, XOutputStream):
    """What soffice writes to."""

    def __init__(self):
        self.data = bytearray()

    def writeBytes(self, data):
        self.data += data.value

    def flush(self):
        pass

    def closeOutput(self):
        pass


def properties(**values):
    return tuple(PropertyValue(name, 0, value, 0) for name, value in values.items())


def save_as(context, data, source, target):
    """Loads a document of one extension in soffice, and returns it as another."""
    load_filter, options, pdf_filter = FILTERS[source]
    store_filter = pdf_filter if target == ".pdf" else FILTERS[target][0]
    create = context.ServiceManager.createInstanceWithArgumentsAndContext
    stream = create("com.sun.star.io.SequenceInputStream", (uno.ByteSequence(data),), context)
    desktop = create("com.sun.star.frame.Desktop", (), context)
    document = desktop.loadComponentFromURL("private:stream", "_blank", 0, properties(
        InputStream=stream, FilterName=load_filter, FilterOptions=options, Hidden=True))
    if document is None:
        raise ValueError("soffice cannot load it")
    try:
        output = Output()
        document.storeToURL("private:stream", properties(OutputStream=output, FilterName=store_filter))
        return output.data
    finally:
        document.close(True)


def convert(host, port, data, source, target):
    """Connects, converts a document, and ends the connection."""
    services = uno.getComponentContext().ServiceManager
    connector = services.createInstance("com.sun.star.connection.Connector")
    connection = connector.connect(f"socket,host={host},port={port},tcpNoDelay=1")
    # Not the shorter UnoUrlResolver: it hides the bridge. Without disposing of the
    # bridge, the connection would not end before this program does.
    bridges = services.createInstance("com.sun.star.bridge.BridgeFactory")
    bridge = bridges.createBridge("", "urp", connection, None)
    try:
        # If the client stands in the lock's line, it waits here.
        context = bridge.getInstance("StarOffice.ComponentContext")
        return save_as(context, data, source, target)
    finally:
        bridge.dispose()


def main():
    known = ", ".join(FILTERS)
    parser = argparse.ArgumentParser(description="Converts a document through a UNO socket.")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9000, help="default: %(default)s, the lock's")
    parser.add_argument("document", type=pathlib.Path, help=known)
    parser.add_argument("target", type=pathlib.Path, nargs="?", help=".pdf, or one of those; default: a PDF beside the document")
    args = parser.parse_args()
    target = args.target or args.document.with_suffix(".pdf")
    if args.document.suffix not in FILTERS:
        parser.error(f"found document {args.document}, expected one of {known}")
    if target.suffix not in (".pdf", *FILTERS):
        parser.error(f"found target {target}, expected one of .pdf, {known}")
    try:
        data = args.document.read_bytes()
        target.write_bytes(convert(args.host, args.port, data, args.document.suffix, target.suffix))
    except (OSError, ValueError, UnoException) as error:
        sys.exit(f"{args.document}: {error}")


if __name__ == "__main__":
    main()
