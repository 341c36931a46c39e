"""Prepared shards: the frames of a dataset in a few large files, from which a step reads only the frames it needs.

A dataset of thousands of small files is slow to copy, to list and to read over a network. Here it becomes

    <folder>/tarvis_frames/<dataset>/<version>/
      tarvis_frames-train.array_record-00000-of-00032   one record per frame: the bytes of its image and its targets
      videos-train.array_record                         which videos there are, where their frames are, checksums
      dataset_info.json, features.json                  what tensorflow-datasets must know to read it, too

`builder.py` writes it (`python -m input_pipeline.shards`, `tfds build`, or Apache Beam on a cluster), `index.py` knows
the files, `records.py` reads frames, and `videos.py` makes `VideoRecord`s of them, which give the same batches, bit for
bit, as those of the dataset's own files. `--config.data.shards=<folder>` trains from it, on a disk or in a bucket.
docs/shards.md explains the use.
"""
