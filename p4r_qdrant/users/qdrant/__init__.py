"""Users on a Qdrant server, in two collections.

`<collection>-interactions`, without vectors:

    an interaction   its texts, and what became of them, in the payload
    a job
    a version        the name of a collection with user vectors

`<version>-users`, for the vectors made with the encoder of that version of the index:

    an interaction   vector `text`: e_uj; in the payload the hash of the text that was encoded
    a user           vector `text`: h_u, which a query can name; in the payload the e_uj it is
                     made of, as base64 of float32: reading each as a vector takes 0.1 ms
"""
