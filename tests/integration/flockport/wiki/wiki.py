#!/usr/bin/python3
import sys

import psycopg2

if "--check" in sys.argv:
    print("psycopg2", psycopg2.__version__)
