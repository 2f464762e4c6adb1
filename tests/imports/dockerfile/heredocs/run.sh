#!/bin/sh
cat /etc/app/app.conf
