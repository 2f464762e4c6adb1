#include <stdio.h>
#include <stdlib.h>
int main(int n, char **a) { return n != 3 || printf("%d\n", atoi(a[1]) + atoi(a[2])) < 0; }
